package tunnel_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/siptunnel/siptunnel/tunnel"
)

// A softphone connects with a join link, takes its own socket beside the PBX
// and a pair for media, and uses their addresses as if it were there.
func Example() {
	ctx := context.Background()
	link, err := tunnel.ParseLink(os.Getenv("SIPTUNNEL_LINK"))
	if err != nil {
		log.Fatal(err)
	}
	config := link.Config()
	config.Software = "example/1.0"
	config.OnEvent = func(e tunnel.Event) { log.Print(e) }
	client, err := tunnel.Dial(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()

	phone, err := client.Phone(ctx, "alice's softphone")
	if err != nil {
		log.Fatal(err)
	}
	defer phone.Close()
	media, err := client.Media(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer media.Close()

	fmt.Printf("Contact: <sip:alice@%v>\r\n", phone.LocalAddr()) // one SIP message per packet on phone
	fmt.Printf("SDP: %v\r\n", media.RTP().LocalAddr())           // RTP and RTCP on media
}

// Events say what the network and the server do; most programs need two.
func Example_events() {
	onEvent := func(e tunnel.Event) {
		switch e := e.(type) {
		case tunnel.SessionLost:
			log.Printf("calls are over: %v", e.Err)
		case tunnel.KeyPinned:
			log.Printf("keep this for Config.Pin: %s", e.Pin)
		}
	}
	client, err := tunnel.New(tunnel.Config{
		Server: "pbx.example.com:5090", Name: "office", Password: "correct horse battery", OnEvent: onEvent,
	})
	if err != nil {
		log.Fatal(err)
	}
	client.Close()
}
