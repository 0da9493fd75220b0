"""One module per command. `prismtop.cli` parses, calls them, and owns exit codes and stderr."""
