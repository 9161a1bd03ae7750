package wire

import "golang.org/x/crypto/cryptobyte"

// OpenPath asks for a media path (datagrams) of this connection, from the client.
// A server without one does not answer.
//
//	suite 8 | connection 32
type OpenPath struct {
	// Suite is the AEAD that both ends use, by its code point.
	Suite uint8
	// Connection is the id that datagrams to the client have.
	Connection uint32
}

// Append appends the frame to dst.
func (m OpenPath) Append(dst []byte) []byte {
	return appendFrame(dst, TypeOpenPath, func(b *cryptobyte.Builder) {
		b.AddUint8(m.Suite)
		b.AddUint32(m.Connection)
	})
}

// ParseOpenPath parses the body of an OpenPath.
func ParseOpenPath(body []byte) (m OpenPath, err error) {
	f := fields{s: body, frame: TypeOpenPath}
	m.Suite = f.uint8("suite")
	m.Connection = f.uint32("connection")
	return m, f.end("connection")
}

// PathOpened answers OpenPath.
//
//	connection 32 | port 16
type PathOpened struct {
	// Connection is the id that datagrams to the server have.
	Connection uint32
	// Port is the server's UDP port, at the address to which the client has
	// connected. 0: the number of the TCP port.
	Port uint16
}

// Append appends the frame to dst.
func (m PathOpened) Append(dst []byte) []byte {
	return appendFrame(dst, TypePathOpened, func(b *cryptobyte.Builder) {
		b.AddUint32(m.Connection)
		b.AddUint16(m.Port)
	})
}

// ParsePathOpened parses the body of a PathOpened.
func ParsePathOpened(body []byte) (m PathOpened, err error) {
	f := fields{s: body, frame: TypePathOpened}
	m.Connection = f.uint32("connection")
	m.Port = f.uint16("port")
	return m, f.end("port")
}
