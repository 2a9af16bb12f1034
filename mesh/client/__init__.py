"""The library client: plan which regions to ask, ask them, merge their answers."""
