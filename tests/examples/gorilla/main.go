// A client with Gorilla: sends each line of its input, a JSON string, and prints each message as a JSON string.
package main

import (
	"bufio"
	"encoding/json"
	"log"
	"os"

	"github.com/gorilla/websocket"
)

func main() {
	socket, _, err := websocket.DefaultDialer.Dial(os.Args[1], nil)
	if err != nil {
		log.Fatal(err)
	}
	out := json.NewEncoder(os.Stdout)
	out.Encode(map[string]bool{"open": true})
	go say(socket)
	for {
		_, message, err := socket.ReadMessage()
		if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
			return
		}
		if err != nil {
			log.Fatal(err)
		}
		out.Encode(string(message))
	}
}

func say(socket *websocket.Conn) {
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var text string
		if err := json.Unmarshal(lines.Bytes(), &text); err != nil {
			log.Fatal(err)
		}
		if err := socket.WriteMessage(websocket.TextMessage, []byte(text)); err != nil {
			log.Fatal(err)
		}
	}
	goodbye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
	socket.WriteMessage(websocket.CloseMessage, goodbye)
}
