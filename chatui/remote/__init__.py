"""Backend over servers that speak OpenAI's API: vLLM, SGLang, llama.cpp, Ollama, a router, another chatui."""
