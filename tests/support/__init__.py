"""What tests share: waiting, a probe and a viewer by hand, an agent in a process of its own."""
