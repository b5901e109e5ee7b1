// Stands in for the sidecar of the same name, which Go's module proxy does not have: answers /healthz by asking a driver, with
// the flags that the chart gives.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

var (
	socket  = flag.String("csi-address", "/run/csi/socket", "socket of the driver")
	port    = flag.String("health-port", "9808", "port of /healthz")
	timeout = flag.Duration("probe-timeout", time.Second, "longest wait for the driver")
)

// Each question has a connection of its own: a driver that takes none is as dead as one that does not answer.
func probe(answer http.ResponseWriter, request *http.Request) {
	deadline, cancel := context.WithTimeout(request.Context(), *timeout)
	defer cancel()
	connection, err := grpc.NewClient("unix://"+*socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		http.Error(answer, err.Error(), http.StatusInternalServerError)
		return
	}
	defer connection.Close()
	state, err := csi.NewIdentityClient(connection).Probe(deadline, &csi.ProbeRequest{}, grpc.WaitForReady(true))
	switch {
	case err != nil:
		log.Printf("the driver does not answer: %v", err)
		http.Error(answer, err.Error(), http.StatusInternalServerError)
	case state.GetReady() != nil && !state.GetReady().GetValue():
		http.Error(answer, "the driver is not ready", http.StatusInternalServerError)
	}
}

func main() {
	flag.Parse()
	http.HandleFunc("/healthz", probe)
	log.Fatal(http.ListenAndServe(net.JoinHostPort("0.0.0.0", *port), nil))
}
