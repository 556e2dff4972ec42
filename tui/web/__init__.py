"""The dashboard in a browser on this host: ``lossguard top --web``.

``serving`` binds and prints the link, ``gate`` says who may come in, ``front`` answers HTTP, and
``terminal`` joins each browser tab with an app in a process of its own (``app_process`` on the
server's side, ``shown_app`` in it). Needs the extra ``web``.
"""
