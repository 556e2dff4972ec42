"""The report of a run, and its raw series: read from what the agent keeps, with no agent needed.

``reading`` (the database, read-only) -> ``gathering`` (one ``RunData``, in bounded memory) ->
``summary``, ``stories`` (words) -> ``html_page`` or ``markdown_page`` (text out). ``exporting``
streams the steps past all of that into a file.
"""
