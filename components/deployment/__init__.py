"""From a trained model to an answer over HTTP: the bundle, the engine that decodes it, the OpenAI-style server."""
