"""Talks to the API server. The only place that knows aiohttp and kubernetes_asyncio."""
