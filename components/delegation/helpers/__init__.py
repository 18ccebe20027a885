"""Those who answer a call, behind one interface (``base.Helper``)."""
