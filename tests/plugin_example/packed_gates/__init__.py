"""A gated activation that takes both projections as one tensor; `packed_gates.plugin` holds the plugin."""
