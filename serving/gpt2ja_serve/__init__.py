"""An HTTP server for a bundle, with the API of OpenAI and vLLM, and a page to play with."""
