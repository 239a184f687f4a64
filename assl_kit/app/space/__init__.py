"""The page of a bank as a Gradio Space: what writes its folder, and the program in it."""
