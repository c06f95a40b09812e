"""What the page needs of Gradio beyond its public API: one module for each topic."""
