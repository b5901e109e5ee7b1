//go:build tools

// Package tools pins the version of csi-sanity that e2e/setup builds.
package tools

import _ "github.com/kubernetes-csi/csi-test/v5/cmd/csi-sanity"
