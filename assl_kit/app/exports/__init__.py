"""An expert bank in the form of other people's servers and routers."""
