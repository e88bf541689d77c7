"""``ncsn play``."""

import threading
import webbrowser
from dataclasses import dataclass

from ncsn import page
from ncsn.ranges import Port, check_ranges
from ncsn.signals import Interrupted


@dataclass(frozen=True, kw_only=True)
class Play:
    """Open the page on which scores, annealing and learning can be tried by hand; Ctrl-C ends it.

    It is served to this machine alone, and asks nothing of the network.
    """

    port: Port = 8000
    """Where, on 127.0.0.1; 0 for any that is free."""
    browser: bool = True
    """Open the browser, too."""

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        check_ranges(self)

    def __call__(self) -> None:
        """Serve the page until Ctrl-C."""
        with page.server(page.built(), self.port) as server:
            address = f"http://127.0.0.1:{server.server_port}/"
            print(f"{address}  (Ctrl-C ends it)", flush=True)
            if self.browser:  # which may take as long as the browser is open, where that is one for terminals
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
            try:
                server.serve_forever()
            except Interrupted:
                print()
