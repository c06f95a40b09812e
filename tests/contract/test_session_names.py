from tests.contract.upstream import find, needs, routes


def test_every_path_with_a_session_is_made_the_visitors_own() -> None:
    from chatui.owners import GRADIO, SESSION, SESSION_IN_PATH

    paths = [path for path in routes() if "{session" in path]
    needs(paths, "Gradio has no path with the name of a session any more", "chatui/owners.py")
    unseen = [path for path in paths if not SESSION_IN_PATH.search(path)]
    needs(not unseen, f"Gradio names a session in {', '.join(unseen)}, where we do not look", "chatui/owners.py")
    needs(
        find("gradio.route_utils:API_PREFIX", "chatui/owners.py") == GRADIO.rstrip("/"),
        "API_PREFIX is another",
        "chatui/owners.py",
    )
    body = find("gradio.data_classes:PredictBody", "chatui/owners.py")
    needs(SESSION in body.model_fields, f"The body of an event has no {SESSION} any more", "chatui/owners.py")


def test_uploads_have_the_address_whose_size_is_limited() -> None:
    from chatui.body_limit import UPLOAD

    needs(UPLOAD in routes(), f"Gradio has no route {UPLOAD} any more", "chatui/body_limit.py")
