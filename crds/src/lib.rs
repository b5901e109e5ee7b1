//! Types of the custom resources of Anabranch.
