"""Built-in fusion patterns: declarations only; passes apply them."""

if __name__ == "patterns":
    raise ImportError("this folder installs as autodeploy.patterns: write `import autodeploy.patterns`")
