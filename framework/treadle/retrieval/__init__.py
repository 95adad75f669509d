"""From files to what can be searched: the text of a file is the first step."""
