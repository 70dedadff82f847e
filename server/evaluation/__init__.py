"""Answers to compare: by an engine in this process, or by any OpenAI-compatible server.

engine_answers.py   a deployment's own models, all answers in one continuous batch
url_answers.py      whoever serves `/v1/chat/completions`
chat_service.py     one request to such a server, tried again where that may help
"""
