"""Built-in recipes: YAML data that `autodeploy.recipe` and `autodeploy.hardware` read."""
