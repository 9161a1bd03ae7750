// Package sdnotify tells systemd about the state of a service of Type=notify (sd_notify(3)): one datagram to the socket
// that $NOTIFY_SOCKET names, nothing at all where there is none.
package sdnotify

import "net"

// States of sd_notify(3).
const (
	Ready    = "READY=1"
	Stopping = "STOPPING=1"
)

// Notify sends state to the socket, which is the value of $NOTIFY_SOCKET; a name that starts with @ is in the abstract
// name space. An empty socket is no error: the program was not started by systemd.
func Notify(socket, state string) error {
	if socket == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Write([]byte(state))
	return err
}
