"""The models that the course runs, each in a module of its own: `tinygpt` and `minilm`."""
