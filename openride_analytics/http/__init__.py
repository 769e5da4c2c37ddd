"""The HTTP face: parameters in, answers and problems out."""
