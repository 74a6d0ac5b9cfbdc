"""What keeps the project's files in step; not part of the package."""
