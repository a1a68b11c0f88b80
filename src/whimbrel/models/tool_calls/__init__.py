"""Tools at the text level: how models write calls, how chat templates take them, what an answer calls.

For: ``ToolFormat`` (a family's notation), ``ToolTemplate`` (conversations with tools through one chat template) and
``CallParser`` (an answer's pieces to text and calls). In: tools and messages as OpenAI's chat API has them; text. Out:
messages that a template renders; text and calls. May not: call a tool, or know a tokenizer.
"""
