"""Models the project can name: what `--model NAME_OR_PATH` means, and a random one for mechanics."""
