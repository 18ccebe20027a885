"""From a trained model to an answer over HTTP: the bundle, the engine that decodes, the OpenAI-compatible server."""
