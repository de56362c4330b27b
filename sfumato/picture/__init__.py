"""What happens to a finished picture: its recipe, the file, the contact sheet, the terminal preview."""
