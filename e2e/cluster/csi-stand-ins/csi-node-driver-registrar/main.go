// Stands in for the sidecar of the same name, which Go's module proxy does not have: tells the kubelet of a driver, with the
// flags that the chart gives.
package main

import (
	"context"
	"flag"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

var (
	driverSocket = flag.String("csi-address", "/run/csi/socket", "socket of the driver, as this program sees it")
	kubeletPath  = flag.String("kubelet-registration-path", "", "socket of the driver, as the kubelet sees it")
	folder       = flag.String("plugin-registration-path", "/registration", "where the kubelet looks for new drivers")
	endpoint     = flag.String("http-endpoint", "", "address of /healthz")
)

type server struct {
	registration.UnimplementedRegistrationServer
	name string
}

func (s server) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &registration.PluginInfo{
		Type: registration.CSIPlugin, Name: s.name, Endpoint: *kubeletPath, SupportedVersions: []string{"1.0.0"},
	}, nil
}

// A refusal ends the program, so that it is started and tries again.
func (s server) NotifyRegistrationStatus(_ context.Context, status *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	if !status.PluginRegistered {
		log.Fatalf("the kubelet refused %s: %s", s.name, status.Error)
	}
	log.Printf("the kubelet took %s", s.name)
	return &registration.RegistrationStatusResponse{}, nil
}

// Asks the driver for its name, for as long as it does not answer.
func driverName() string {
	connection, err := grpc.NewClient("unix://"+*driverSocket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		log.Fatal(err)
	}
	defer connection.Close()
	for {
		deadline, cancel := context.WithTimeout(context.Background(), time.Second)
		answer, err := csi.NewIdentityClient(connection).GetPluginInfo(deadline, &csi.GetPluginInfoRequest{}, grpc.WaitForReady(true))
		cancel()
		if err == nil {
			return answer.GetName()
		}
		log.Printf("the driver does not answer yet: %v", err)
		time.Sleep(time.Second)
	}
}

func main() {
	flag.Parse()
	if *kubeletPath == "" {
		log.Fatal("--kubelet-registration-path is missing")
	}
	name := driverName()
	socket := filepath.Join(*folder, name+"-reg.sock")
	if err := os.Remove(socket); err != nil && !os.IsNotExist(err) {
		log.Fatal(err)
	}
	syscall.Umask(0o077)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	if *endpoint != "" {
		http.HandleFunc("/healthz", func(answer http.ResponseWriter, _ *http.Request) {
			if _, err := os.Stat(socket); err != nil {
				http.Error(answer, err.Error(), http.StatusNotFound)
			}
		})
		go func() { log.Fatal(http.ListenAndServe(*endpoint, nil)) }()
	}
	// The kubelet forgets a driver whose socket goes.
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGTERM)
	go func() {
		<-ended
		_ = os.Remove(socket)
		os.Exit(0)
	}()
	kubelet := grpc.NewServer()
	registration.RegisterRegistrationServer(kubelet, server{name: name})
	log.Fatal(kubelet.Serve(listener))
}
