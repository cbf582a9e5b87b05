"""How a draft begins: what a client asks for, what it is made from, and the files that it begins with."""
