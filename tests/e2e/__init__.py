"""The whole way: CodeChat on a socket, Meltano, real databases."""
