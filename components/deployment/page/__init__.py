"""The page at ``/``: plain HTML, CSS and JavaScript modules beside this file, no build and nothing from elsewhere."""
