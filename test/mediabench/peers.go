//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// errMissing says that a peer's program is not installed.
var errMissing = errors.New("not installed (Debian packages rtpengine-daemon, wireguard-go, openvpn)")

func find(program string) (string, error) {
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("%s: %w", program, errMissing)
	}
	return path, nil
}

// rtpengine forwards RTP at the PBX's site in user space, as it comes.
type rtpengine struct {
	process *process
	conn    *net.UDPConn
	cookie  int
}

func startRTPEngine(ctx context.Context, n *network) (*rtpengine, error) {
	path, err := find("rtpengine")
	if err != nil {
		return nil, err
	}
	r := &rtpengine{}
	if r.process, err = n.pbx.start(ctx, path, "--foreground", "--log-stderr", "--log-level=3", "--table=-1", "--interface=out/"+linkPBX,
		"--interface=in/"+pbxAddr, "--listen-ng=127.0.0.1:2223", "--port-min=30000", "--port-max=39999", "--num-threads=2"); err != nil {
		return nil, err
	}
	err = n.pbx.do(func() (err error) {
		r.conn, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(netip.MustParseAddrPort("127.0.0.1:2223")))
		return err
	})
	if err == nil {
		err = eventually(func() error { _, err := r.ask(time.Second, "7:command4:ping"); return err })
	}
	if err != nil {
		log := r.process.log.String()
		r.close()
		return nil, fmt.Errorf("rtpengine: %w\n%s", err, log)
	}
	return r, nil
}

func (r *rtpengine) close() {
	if r.conn != nil {
		_ = r.conn.Close()
	}
	r.process.stop()
}

// ask sends a command of the ng protocol, a bencoded dictionary's inside.
func (r *rtpengine) ask(wait time.Duration, command string) (string, error) {
	r.cookie++
	cookie := strconv.Itoa(r.cookie)
	if _, err := fmt.Fprintf(r.conn, "%s d%se", cookie, command); err != nil {
		return "", err
	}
	if err := r.conn.SetReadDeadline(time.Now().Add(wait)); err != nil {
		return "", err
	}
	buf := make([]byte, 65535)
	for {
		n, err := r.conn.Read(buf)
		if err != nil {
			return "", err
		}
		if answer, ok := strings.CutPrefix(string(buf[:n]), cookie+" "); ok {
			return answer, nil
		}
	}
}

func bencoded(words ...string) string {
	text := ""
	for _, w := range words {
		text += strconv.Itoa(len(w)) + ":" + w
	}
	return text
}

// call has a stream of rtpengine's for each of s from first on.
func (r *rtpengine) call(s *streams, first int) error {
	for i := first; i < len(s.all); i++ {
		st := s.all[i]
		from, err := addrOf(st.from)
		if err != nil {
			return err
		}
		at, err := addrOf(st.at)
		if err != nil {
			return err
		}
		id := "call-" + strconv.Itoa(i)
		direction := bencoded("direction") + "l" + bencoded("out", "in") + "e"
		back, err := r.port(bencoded("call-id", id, "command", "offer") + direction + bencoded("from-tag", "a", "sdp", describe(from)))
		if err != nil {
			return err
		}
		st.back.aim(back)
		port, err := r.port(bencoded("call-id", id, "command", "answer") + bencoded("from-tag", "a", "sdp", describe(at), "to-tag", "b"))
		if err != nil {
			return err
		}
		st.aim(port)
	}
	return nil
}

// port is where the SDP that comes back wants RTP.
func (r *rtpengine) port(command string) (netip.AddrPort, error) {
	answer, err := r.ask(answerWithin, command)
	if err != nil {
		return netip.AddrPort{}, err
	}
	_, rest, ok := strings.Cut(answer, "\r\nm=audio ")
	port, _, _ := strings.Cut(rest, " ")
	n, err := strconv.ParseUint(port, 10, 16)
	_, addr, _ := strings.Cut(answer, "\r\nc=IN IP4 ")
	addr, _, _ = strings.Cut(addr, "\r\n")
	if !ok || err != nil || addr == "" {
		return netip.AddrPort{}, fmt.Errorf("rtpengine answers %q", answer)
	}
	return netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(n)), nil
}

// vpn is a tunnel of IP packets between the two hosts.
type vpn struct{ ends []*process }

func (v *vpn) close() {
	for _, p := range v.ends {
		p.stop()
	}
}

func (v *vpn) logs() string {
	text := ""
	for _, p := range v.ends {
		text += "--- " + p.name + "\n" + p.log.String()
	}
	return text
}

// up waits until the VPN carries a packet.
func (v *vpn) up(n *network) error {
	var server *net.UDPConn
	err := eventually(func() error {
		return n.pbx.do(func() (err error) {
			server, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(vpnPBX)})
			return err
		})
	})
	if err != nil {
		return err
	}
	defer server.Close()
	return eventually(func() error {
		return n.office.do(func() error {
			conn, err := net.DialUDP("udp4", nil, server.LocalAddr().(*net.UDPAddr))
			if err != nil {
				return err
			}
			defer conn.Close()
			if _, err := conn.Write([]byte("up?")); err != nil {
				return err
			}
			if err := server.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
				return err
			}
			_, _, err = server.ReadFrom(make([]byte, 16))
			return err
		})
	})
}

func startWireGuard(ctx context.Context, n *network) (*vpn, error) {
	path, err := find("wireguard-go")
	if err != nil {
		return nil, err
	}
	v := &vpn{}
	if err := v.startWireGuard(ctx, n, path); err != nil {
		v.close()
		return nil, fmt.Errorf("wireguard-go: %w\n%s", err, v.logs())
	}
	return v, nil
}

func (v *vpn) startWireGuard(ctx context.Context, n *network, path string) error {
	var keys [2]*ecdh.PrivateKey
	for i := range keys {
		var err error
		if keys[i], err = ecdh.X25519().GenerateKey(rand.Reader); err != nil {
			return err
		}
	}
	for i, end := range []struct {
		host            host
		name, own, peer string
		listen          int
		endpoint        string
	}{
		{n.office, fmt.Sprintf("wgo%d", os.Getpid()), vpnOffice, vpnPBX, 51821, linkPBX + ":51820"},
		{n.pbx, fmt.Sprintf("wgp%d", os.Getpid()), vpnPBX, vpnOffice, 51820, linkOffice + ":51821"},
	} {
		p, err := end.host.start(ctx, path, "--foreground", end.name)
		if err != nil {
			return err
		}
		v.ends = append(v.ends, p)
		config := fmt.Sprintf("set=1\nprivate_key=%x\nlisten_port=%d\npublic_key=%x\nendpoint=%s\nallowed_ip=%s/32\n\n",
			keys[i].Bytes(), end.listen, keys[1-i].PublicKey().Bytes(), end.endpoint, end.peer)
		if err := eventually(func() error { return configureWireGuard(end.name, config) }); err != nil {
			return err
		}
		for _, args := range [][]string{
			{"ip", "addr", "add", end.own + "/24", "dev", end.name},
			{"ip", "link", "set", end.name, "up"},
		} {
			if err := end.host.run(args...); err != nil {
				return err
			}
		}
	}
	return v.up(n)
}

// configureWireGuard speaks the cross-platform userspace protocol.
func configureWireGuard(name, config string) error {
	conn, err := net.Dial("unix", "/var/run/wireguard/"+name+".sock")
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(config)); err != nil {
		return err
	}
	answer := make([]byte, 256)
	n, err := conn.Read(answer)
	if err != nil {
		return err
	}
	if !bytes.Contains(answer[:n], []byte("errno=0")) {
		return fmt.Errorf("it answers %q", answer[:n])
	}
	return nil
}

func startOpenVPN(ctx context.Context, n *network) (*vpn, error) {
	path, err := find("openvpn")
	if err != nil {
		return nil, err
	}
	v := &vpn{}
	dir, err := os.MkdirTemp("", "siptunnel-openvpn-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir) // the programs have read it by then
	if err := v.startOpenVPN(ctx, n, path, dir); err != nil {
		v.close()
		return nil, fmt.Errorf("openvpn: %w\n%s", err, v.logs())
	}
	return v, nil
}

func (v *vpn) startOpenVPN(ctx context.Context, n *network, path, dir string) error {
	var prints [2]string
	for i := range prints {
		var err error
		if prints[i], err = selfSigned(filepath.Join(dir, strconv.Itoa(i))); err != nil {
			return err
		}
	}
	for i, end := range []struct {
		host      host
		own, peer string
		remote    string
		role      []string
	}{
		{n.pbx, vpnPBX, vpnOffice, linkOffice, []string{"--tls-server", "--dh", "none"}},
		{n.office, vpnOffice, vpnPBX, linkPBX, []string{"--tls-client"}},
	} {
		base := filepath.Join(dir, strconv.Itoa(i))
		args := append([]string{"--dev", "tun", "--proto", "udp", "--remote", end.remote, "--port", "1194", "--ifconfig", end.own, end.peer,
			"--cert", base + ".crt", "--key", base + ".key", "--peer-fingerprint", prints[1-i], "--data-ciphers", "AES-128-GCM", "--verb", "3"}, end.role...)
		p, err := end.host.start(ctx, path, args...)
		if err != nil {
			return err
		}
		v.ends = append(v.ends, p)
	}
	return v.up(n)
}

// selfSigned writes a key and a certificate and returns its fingerprint.
func selfSigned(base string) (string, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return "", err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "bench"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return "", err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return "", err
	}
	for name, block := range map[string]*pem.Block{".crt": {Type: "CERTIFICATE", Bytes: der}, ".key": {Type: "PRIVATE KEY", Bytes: private}} {
		if err := os.WriteFile(base+name, pem.EncodeToMemory(block), 0o600); err != nil {
			return "", err
		}
	}
	sum := sha256.Sum256(der)
	return strings.ToUpper(strings.Join(split(hex.EncodeToString(sum[:])), ":")), nil
}

func split(digits string) (pairs []string) {
	for ; len(digits) >= 2; digits = digits[2:] {
		pairs = append(pairs, digits[:2])
	}
	return pairs
}
