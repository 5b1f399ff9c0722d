"""Read lists of workers that somebody else keeps: DNS names and files."""
