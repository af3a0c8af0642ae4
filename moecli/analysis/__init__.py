"""Analysis: gathers routing records over a text and reduces them to numbers. Computes, never draws."""
