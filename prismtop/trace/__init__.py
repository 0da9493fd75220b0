"""Chrome traces: recorder, reader, dialects, check and repair."""
