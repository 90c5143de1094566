"""The models that the course runs, each in a room of its own: `tinygpt`, `minilm`, `llama`."""
