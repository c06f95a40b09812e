"""The /v1 routes in OpenAI's dialect: knows only the Backend protocol."""
