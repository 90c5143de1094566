"""Which live figures have frames in the web book that the tests build."""

FRAMED = ("00", "03", "08")  # drawing those of all takes minutes
