"""Built-in passes, one a module; `autodeploy.discovery` finds them."""

if __name__ == "passes":
    raise ImportError("this folder installs as autodeploy.passes: write `import autodeploy.passes`")

import autodeploy.ops  # noqa: F401  (registers torch.ops.autodeploy)
