def serve(host: str, port: int) -> None:
    import threading

    from prometheus_client import start_http_server

    start_http_server(port, addr=host)
    threading.Event().wait()
