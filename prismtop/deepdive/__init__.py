"""One bounded capture of everything, on one timeline."""
