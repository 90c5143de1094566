"""What only an author needs: `python -m qlesson.authoring COMMAND`, with refresh, lint, slides,
handouts, book, colab or translate."""
