// Tests the Socket.IO client for Go, with each of its transports and with the upgrade between them.
package socketio

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"github.com/zishang520/socket.io/clients/engine/v3/transports"
	"github.com/zishang520/socket.io/clients/socket/v3"
	"github.com/zishang520/socket.io/v3/pkg/types"
)

const patience = 20 * time.Second

var (
	polling   = types.NewSet(transports.Polling)
	websocket = types.NewSet(transports.WebSocket)
	both      = types.NewSet(transports.Polling, transports.WebSocket)
)

func each(t *testing.T, test func(t *testing.T, by *types.Set[transports.TransportCtor])) {
	for name, by := range map[string]*types.Set[transports.TransportCtor]{
		"polling": polling, "websocket": websocket, "polling and then a websocket": both,
	} {
		t.Run(name, func(t *testing.T) { test(t, by) })
	}
}

func receive[T any](t *testing.T, channel <-chan T, what string) T {
	t.Helper()
	select {
	case one := <-channel:
		return one
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
		panic("unreachable")
	}
}

func connected(t *testing.T, by *types.Set[transports.TransportCtor]) *socket.Socket {
	t.Helper()
	options := socket.DefaultOptions()
	options.SetTransports(by)
	options.SetForceNew(true)
	client, err := socket.Connect(os.Getenv("SOCKETIO_URL"), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Disconnect() })
	done := make(chan struct{}, 1)
	client.On("connect", func(...any) { done <- struct{}{} })
	if client.Connected() {
		return client
	}
	receive(t, done, "connect")
	return client
}

func heard(client *socket.Socket, event types.EventName) <-chan []any {
	events := make(chan []any, 1_000)
	client.On(event, func(args ...any) { events <- args })
	return events
}

func ask(t *testing.T, client *socket.Socket, event string, args ...any) map[string]any {
	t.Helper()
	answers := make(chan []any, 1)
	client.EmitWithAck(event, args...)(func(args []any, err error) {
		if err != nil {
			t.Error(err)
		}
		answers <- args
	})
	return receive(t, answers, "an acknowledgement")[0].(map[string]any)
}

func TestEventsAndBytesReachAllAndAreAcknowledged(t *testing.T) {
	each(t, func(t *testing.T, by *types.Set[transports.TransportCtor]) {
		one, other := connected(t, by), connected(t, by)
		events := heard(other, "said")
		photo := []byte{1, 255, 0}
		if answer := ask(t, one, "said", "hé", map[string]any{"x": 1, "photo": photo}); answer["status"] != "ok" {
			t.Fatal(answer)
		}
		args := receive(t, events, "an event")
		second := args[1].(map[string]any)
		if args[0] != "hé" || fmt.Sprint(second["x"]) != "1" || !bytes.Equal(contentOf(t, second["photo"]), photo) {
			t.Fatal(args)
		}
	})
}

func contentOf(t *testing.T, value any) []byte {
	t.Helper()
	switch value := value.(type) {
	case []byte:
		return value
	case io.Reader:
		content, err := io.ReadAll(value)
		if err != nil {
			t.Fatal(err)
		}
		return content
	}
	t.Fatalf("no bytes: %T", value)
	return nil
}

func TestARowOfEventsKeepsItsOrderAndPingsKeepTheConnection(t *testing.T) {
	each(t, func(t *testing.T, by *types.Set[transports.TransportCtor]) {
		one, other := connected(t, by), connected(t, by)
		events, lost := heard(other, "said"), heard(other, "disconnect")
		for number := range 100 {
			if err := one.Emit("said", number); err != nil {
				t.Fatal(err)
			}
		}
		for number := range 100 {
			if args := receive(t, events, "an event"); fmt.Sprint(args[0]) != fmt.Sprint(number) {
				t.Fatalf("%v in place of %d", args, number)
			}
		}
		select {
		case reason := <-lost:
			t.Fatal(reason)
		case <-time.After(1500 * time.Millisecond):
		}
		publish(t, map[string]any{"channel": "socketio:*", "data": "by a server", "tags": map[string]string{"event": "said"}})
		if args := receive(t, events, "a server's event"); args[0] != "by a server" {
			t.Fatal(args)
		}
	})
}

func TestRoomsAreJoined(t *testing.T) {
	each(t, func(t *testing.T, by *types.Set[transports.TransportCtor]) {
		one, other := connected(t, by), connected(t, by)
		room := t.Name()
		ask(t, one, "join", room)
		joined := heard(one, "joined")
		ask(t, other, "join", room)
		if args := receive(t, joined, "a member"); args[0] != other.Id() {
			t.Fatal(args, other.Id())
		}
	})
}

func publish(t *testing.T, body any) {
	t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		t.Fatal(err)
	}
	request, err := http.NewRequest(http.MethodPost, os.Getenv("SOCKETIO_URL")+"/api/publish", bytes.NewReader(text))
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("X-API-Key", os.Getenv("API_KEY"))
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		t.Fatal(answer.Status)
	}
}
