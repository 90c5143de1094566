"""What only an author needs: `python -m qlesson.authoring refresh`, `lint` and `slides`."""
