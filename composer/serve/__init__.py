"""The OpenAI-compatible door: one long-lived pipeline behind HTTP. Only this package knows Starlette and uvicorn."""
