"""The gate: may the challenger take the champion's place? Both are judged as they are served."""
