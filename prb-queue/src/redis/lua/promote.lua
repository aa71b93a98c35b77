-- Makes due jobs available. Returns the ms to the next timer; -1 if there is none.
return ms_to(promote())
