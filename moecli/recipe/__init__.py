"""The recipe: its schema, and how a YAML file and `--set` become one checked recipe. Knows the configs of the lower rooms."""
