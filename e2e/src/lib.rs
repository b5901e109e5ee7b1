//! End-to-end tests of Anabranch.
