// A sender on pion, for comparison: a device in a room of `roomcam serve` (docs/signaling.md) that
// shows one H.264 file and one Opus file to every viewer. It does what go2rtc and MediaMTX do with
// pion: one track for all, packetized once, no congestion control.
//
//	pion ws://127.0.0.1:PORT/ws ROOM DEVICE_KEY CLIP.h264 TONE.ogg
package main

import (
	"bytes"
	"errors"
	"io"
	"log"
	"os"
	"time"

	"github.com/gorilla/websocket"
	"github.com/pion/webrtc/v3"
	"github.com/pion/webrtc/v3/pkg/media"
	"github.com/pion/webrtc/v3/pkg/media/oggreader"
)

const (
	framePeriod = time.Second / 30
	opusPeriod  = 20 * time.Millisecond
)

type message struct {
	Type      string                     `json:"type"`
	Protocol  int                        `json:"protocol,omitempty"`
	Role      string                     `json:"role,omitempty"`
	Room      string                     `json:"room,omitempty"`
	Key       string                     `json:"key,omitempty"`
	Instance  string                     `json:"instance,omitempty"`
	ID        string                     `json:"id,omitempty"`
	From      string                     `json:"from,omitempty"`
	To        string                     `json:"to,omitempty"`
	Offer     *webrtc.SessionDescription `json:"offer,omitempty"`
	Answer    *webrtc.SessionDescription `json:"answer,omitempty"`
	Candidate *webrtc.ICECandidateInit   `json:"candidate,omitempty"`
	Message   string                     `json:"message,omitempty"`
}

func main() {
	server, room, key := os.Args[1], os.Args[2], os.Args[3]
	frames := readFrames(os.Args[4])
	packets := readOpus(os.Args[5])

	video, err := webrtc.NewTrackLocalStaticSample(webrtc.RTPCodecCapability{
		MimeType: webrtc.MimeTypeH264, ClockRate: 90000,
		SDPFmtpLine: "level-asymmetry-allowed=1;packetization-mode=1;profile-level-id=42e01f",
	}, "video", "camera")
	check(err)
	audio, err := webrtc.NewTrackLocalStaticSample(webrtc.RTPCodecCapability{
		MimeType: webrtc.MimeTypeOpus, ClockRate: 48000, Channels: 2,
	}, "audio", "microphone")
	check(err)
	go play(video, frames, framePeriod)
	go play(audio, packets, opusPeriod)

	socket, _, err := websocket.DefaultDialer.Dial(server, nil)
	check(err)
	check(socket.WriteJSON(message{
		Type: "join", Protocol: 1, Role: "device", Room: room, Key: key, Instance: "pion",
	}))
	peers := map[string]*webrtc.PeerConnection{}
	for {
		var in message
		if err := socket.ReadJSON(&in); err != nil {
			return
		}
		switch in.Type {
		case "error":
			log.Fatal(in.Message)
		case "offer":
			peer := answer(*in.Offer, video, audio)
			check(socket.WriteJSON(message{
				Type: "answer", To: in.From, Answer: peer.LocalDescription(),
			}))
			peers[in.From] = peer
		case "candidate":
			if peer := peers[in.From]; peer != nil && in.Candidate != nil {
				if err := peer.AddICECandidate(*in.Candidate); err != nil {
					log.Print(err)
				}
			}
		case "viewer-left":
			if peer := peers[in.ID]; peer != nil {
				delete(peers, in.ID)
				check(peer.Close())
			}
		}
	}
}

// answer makes a peer connection whose description carries every candidate.
func answer(offer webrtc.SessionDescription, tracks ...webrtc.TrackLocal) *webrtc.PeerConnection {
	peer, err := webrtc.NewPeerConnection(webrtc.Configuration{})
	check(err)
	for _, track := range tracks {
		sender, err := peer.AddTrack(track)
		check(err)
		go func() {
			buffer := make([]byte, 1500)
			for {
				if _, _, err := sender.Read(buffer); err != nil {
					return
				}
			}
		}()
	}
	check(peer.SetRemoteDescription(offer))
	description, err := peer.CreateAnswer(nil)
	check(err)
	gathered := webrtc.GatheringCompletePromise(peer)
	check(peer.SetLocalDescription(description))
	<-gathered
	return peer
}

// play writes the samples in a loop, each at its time.
func play(track *webrtc.TrackLocalStaticSample, samples [][]byte, period time.Duration) {
	ticker := time.NewTicker(period)
	for n := 0; ; n++ {
		<-ticker.C
		check(track.WriteSample(media.Sample{Data: samples[n%len(samples)], Duration: period}))
	}
}

// readFrames splits an Annex B file with one slice per picture into access units.
func readFrames(path string) [][]byte {
	stream, err := os.ReadFile(path)
	check(err)
	startCode := []byte{0, 0, 0, 1}
	var frames [][]byte
	var frame []byte
	for _, unit := range bytes.Split(bytes.ReplaceAll(stream, []byte{0, 0, 0, 1}, []byte{0, 0, 1}), startCode[1:]) {
		if len(unit) == 0 {
			continue
		}
		frame = append(append(frame, startCode...), unit...)
		if kind := unit[0] & 0x1f; kind == 1 || kind == 5 {
			frames = append(frames, frame)
			frame = nil
		}
	}
	return frames
}

func readOpus(path string) [][]byte {
	file, err := os.Open(path)
	check(err)
	reader, _, err := oggreader.NewWith(file)
	check(err)
	var packets [][]byte
	for {
		page, header, err := reader.ParseNextPage()
		if errors.Is(err, io.EOF) {
			return packets
		}
		check(err)
		if header.GranulePosition > 0 {
			packets = append(packets, page)
		}
	}
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
